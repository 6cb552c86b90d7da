"""The DSI query surface: every answer it gives stands in the log."""
