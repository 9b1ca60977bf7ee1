"""Pictures for people: contact sheets and films of clips, plots of runs. Nothing here imports JAX."""
