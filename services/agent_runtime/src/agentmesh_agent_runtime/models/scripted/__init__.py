"""A model that is data: rules that match what was asked, and what to answer."""
