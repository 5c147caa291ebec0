"""The report of a run: the only place that turns facts into prose. Nothing else imports it."""
