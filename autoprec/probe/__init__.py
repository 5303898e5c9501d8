"""Measuring a machine: device, ceilings, inputs, errors, times, baselines."""
