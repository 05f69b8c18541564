"""Parts of a server that uses adepoll. No module imports a web framework.

Public names: `resources.ServerResources` and `open_resources`, `health.Health`,
`problem_details.problem_details`, `sse.JobEventStream` and `as_event`,
`result_responses.reply_with_result`, `webhooks.WebhookVerifier` and `job_ids_in`, all of
`byte_ranges`.
"""
