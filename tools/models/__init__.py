"""The matrix of architectures and methods: ``python -m tools.models``, written up in docs/models.md."""
