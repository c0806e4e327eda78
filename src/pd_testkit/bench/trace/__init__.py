"""Where each request was when: a timeline over all components."""
