"""Drawing of label maps and scores."""
