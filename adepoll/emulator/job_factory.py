"""Makes jobs, and draws at random what a request or a test does not specify. Does no I/O."""

import random
from collections.abc import Mapping

from attrs import Factory, define, evolve, field

from adepoll.emulator.jobs import Job, JobPlan, Outcome
from adepoll.emulator.kinds.emulated_kind import EmulatedKind
from adepoll.emulator.kinds.forms import Submission
from adepoll.emulator.profiles import Profile


@define(kw_only=True, eq=False)
class JobFactory:
    """Makes the jobs of a world, in the order of their submission.

    Attributes:
        seed: Determines everything random.
        profile: Durations, outcomes and sizes of the jobs that are submitted without a `JobPlan`.
        profiles: Profiles that replace `profile` for some kinds of jobs, by the name of the kind.
    """

    seed: int = 0
    profile: Profile = Factory(Profile)
    profiles: Mapping[str, Profile] = field(factory=dict)
    _made: int = field(init=False, default=0)
    _rng: random.Random = field(init=False)

    @_rng.default
    def _seed_rng(self) -> random.Random:
        return random.Random(self.seed)  # noqa: S311 - reproducible, not secret

    def profile_of(self, kind: str) -> Profile:
        """Return the profile of the jobs of a kind, which is given by name."""
        return self.profiles.get(kind, self.profile)

    def new_id(self, rules: EmulatedKind, now: float) -> str:
        """Draw the id of a job that is created at `now`, in Unix seconds."""
        return rules.new_id(now, self._rng)

    def make(
        self,
        rules: EmulatedKind,
        submission: Submission,
        *,
        plan: JobPlan | None,
        job_id: str,
        received_at: float,
    ) -> Job:
        """Return the job that a request creates.

        Args:
            rules: Rules of the kind of the job.
            submission: The request that creates the job.
            plan: What happens to the job; None to draw a plan from the profile.
            job_id: Id of the job.
            received_at: Time of arrival, in Unix seconds.
        """
        tier = submission.tier
        if plan is None or (tier is None and rules.has_tiers):
            profile = self.profile_of(rules.name)
            # Each job has its own generator for details. So a job that draws more details does not
            # change later jobs.
            details = random.Random(f"{self.seed}/{self._made}")  # noqa: S311 - reproducible, not secret
            if tier is None and rules.has_tiers:
                tier = profile.draw_tier(details)
            if plan is None:
                plan = profile.draw(self._rng, details, tier=tier)
                if plan.outcome not in rules.outcomes:
                    plan = evolve(plan, outcome=Outcome.FAILED)
        number, self._made = self._made, self._made + 1
        return Job(
            job_id=job_id,
            kind=rules.name,
            received_at=received_at,
            number=number,
            plan=plan,
            version=rules.model(submission.model),
            filename=submission.filename,
            tier=tier,
            schema=submission.schema,
            markdown=submission.markdown,
            options=submission.options,
            output_save_url=submission.output_save_url or None,
        )
