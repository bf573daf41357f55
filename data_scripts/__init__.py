"""One script for each dataset, from a download or a renderer to a prepared folder (`zsad_core.datasets`)."""
