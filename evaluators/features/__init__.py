"""Frozen features: the live backbone with its receipt, its layers, one extraction that serves all."""
