"""What a person sees while a plan runs."""
