"""What training sees: gates on convs and branches."""
