"""
Shows the right offer at the right touchpoint to the right person, labelled, capped and explained; and enterprises' pages.

It is for deciding in memory, page view by page view, and for what follows from a decision: exposures and sign-ups. It is not
for finding people: audiences come from targeting, with the evidence for each member.
"""
