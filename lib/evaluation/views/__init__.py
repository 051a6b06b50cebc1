"""What an evaluation draws: plots, maps, and the Projector."""
