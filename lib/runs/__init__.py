"""The roof: jobs, pipeline, status and doctor."""
