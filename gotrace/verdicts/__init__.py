"""What is wrong in a process, judged from dumps of its goroutines."""
