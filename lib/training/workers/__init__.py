"""The workers on Ray Train: starting them, their messages, failures, preemption, and the watchdog."""
