"""The shipped application: weather observations to forecast text."""
