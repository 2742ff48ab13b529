"""What passes the door: requests for text, what is counted of them, and what becomes of them. Pure values and rules."""
