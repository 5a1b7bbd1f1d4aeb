"""Crops by noise level: in each step, images with much noise are trained on whole, the others as crops."""
