"""What each op makes of the labels that it reads: a rule a kind of op, or an op by name where that is not enough."""
