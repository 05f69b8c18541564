"""Parts of a server that uses adepoll. No module imports a web framework.

Public are `ServerResources` and `open_resources` (`resources`), `Health` (`health`),
`problem_details`, `JobEventStream` and `as_event` (`sse`), `reply_with_result`
(`result_responses`), `WebhookVerifier` and `job_ids_in` (`webhooks`), and all of `byte_ranges`.
"""
