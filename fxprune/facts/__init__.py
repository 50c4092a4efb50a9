"""Read-only facts about graphs; nothing here edits one."""
