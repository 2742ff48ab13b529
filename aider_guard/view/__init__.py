"""What is shown outside the session: from another pane, and after it."""
