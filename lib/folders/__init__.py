"""What each kind of output folder holds: names, schemas, records, and how they are written and read."""
