"""Process life: the supervisor forks, waits and passes descriptors; the agent does what is done once per host; the
workers serve."""
