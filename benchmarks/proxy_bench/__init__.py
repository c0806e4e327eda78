"""The parts of the proxy's benchmark that run in processes of their own."""
