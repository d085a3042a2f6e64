"""From experience to labels: returns, advantages, the labeler and its deployment, and how values are judged."""
