"""How the cluster is described, and how that is checked without one."""
