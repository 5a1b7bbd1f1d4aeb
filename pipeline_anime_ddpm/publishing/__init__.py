"""From a finished run to the Hub: what travels, its card, the check that nothing private goes with it, the upload."""
