"""What a reader of the report should doubt, gravest first."""
