"""Set-up of the project's own copy of everything it needs: Python packages and, where the machine has none, a Vulkan driver."""
