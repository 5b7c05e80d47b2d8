"""The job `AutoAnalyze`: chat sessions to consistent labels. `contract` has its types, the others its rules."""
