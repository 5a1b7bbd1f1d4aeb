"""Training: settings, network, noise, objective, patches, labels, distillation."""
