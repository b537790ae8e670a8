"""What the controller alone has: the frame of our Ansible actions, a user's clusters, fetching from hosts."""
