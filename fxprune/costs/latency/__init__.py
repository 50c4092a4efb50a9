"""How long a network takes on the device and backend that run it: measured, fitted, predicted."""
