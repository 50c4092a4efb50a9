"""Every torchvision model and one timm CNN a family, from end to end, each in a process of its own."""
