"""The method itself: geometry, targets, losses, network and suppression; knows no files."""
