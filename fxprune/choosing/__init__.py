"""Which layers shall go: what each saves (budgets), is missed (criteria), which is next (search), and when."""
