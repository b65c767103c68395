"""DeepLIFT's multipliers: runs on baselines and inputs, and what each function sends back."""
