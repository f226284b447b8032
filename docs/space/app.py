"""The demo on a Hugging Face Space: the page of ``clipshift demo``, open to everyone."""

from clipshift.cli.command import compose_config
from clipshift.cli.demo import demo_page
from clipshift.demo.page import launch

page = demo_page(compose_config("demo"))
page.delete_cache = (600, 3600)  # every ten minutes, what was dragged in an hour ago is deleted
print(launch(page, 7860, public=True), flush=True)
page.block_thread()
