"""The world model: configuration, network, export, bundle. Importing this package does not import torch."""
