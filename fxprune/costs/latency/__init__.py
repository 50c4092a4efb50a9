"""What a network takes on the device that will run it."""
