"""What a program keeps for its way back; nothing in here knows of loops or branches."""
