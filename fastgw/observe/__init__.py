"""Stage `record`, its cold half: the access log, the exposition of metrics, the process's own log."""
