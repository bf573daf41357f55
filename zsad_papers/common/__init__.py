"""What the experiments of all papers share: settings, data, measuring, results, tables, plots, claims."""
