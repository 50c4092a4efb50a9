"""What an op is called, and which of torch's layers are alike."""
