"""Layer-wise relevance propagation: rules, which layer gets which, and the run that sends relevance back."""
