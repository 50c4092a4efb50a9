"""What a graph is: nodes, modules, copies, and what stands on them."""
