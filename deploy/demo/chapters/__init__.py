"""The story's chapters, each a part of `deploy.demo.story.Story`: what it does, and how it tells it."""
