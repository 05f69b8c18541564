"""Parts of a server that uses adepoll. No module imports a web framework.

Public are `ServerResources`, `open_resources` and `create_resources` (`resources`), `TenantPool`
(`tenant_pool`), `Health` (`health`), `problem_details`, `report_problem` and `PROBLEM_MEDIA_TYPE`
(`problem_details`), `job_as_json` (`job_responses`), `JobEventStream`, `as_event` and
`EVENT_STREAM_HEADERS` (`sse`), `reply_with_result` (`result_responses`), `on_stop_signal`
(`stop_signals`), `WebhookVerifier`, `Verifier` and `job_ids_in` (`webhooks`), and all of
`byte_ranges`.
"""
