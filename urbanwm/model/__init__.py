"""The world model: configuration, network, export and the bundle. Importing this package does not import torch."""
