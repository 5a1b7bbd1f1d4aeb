"""What is learned: settings, network, noise, objective, patches, labels, distillation."""
