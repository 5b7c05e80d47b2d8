"""The console: pages for operators and product people, rendered here, without a build step or another host."""
